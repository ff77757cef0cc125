"""What the pictures show, and the interactive ones, by Bokeh."""
