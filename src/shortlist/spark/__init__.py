"""Batch steps on a Spark cluster. Only this package imports pyspark."""
