"""What users did since the last bundle: stores of events that outlive bundles."""
