"""Batch steps on a Spark cluster; the only room that knows pyspark."""
