"""From records to tables, figures, an answer, and one HTML page."""
