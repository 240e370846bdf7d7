"""Requests: queries in the caller's ids, candidate lists in return, and what a channel can do."""
