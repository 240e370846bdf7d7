"""Which texts often stand where an id was lost on its way?"""

NULL_WORDS = ("\\N", "NULL", "Null", "null", "NA", "N/A", "<NA>", "None", "NaN", "nan", "nil")
"""Words that often mean a missing value. As ids they are refused unless `null_ids` is "keep"."""

SCIENTIFIC = r"^[-+]?\d([.,]\d*)?[eE]\+\d+$"
"""6.10E+12: how a spreadsheet exports a long number."""
