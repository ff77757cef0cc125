"""The data of the pictures, and the interactive pictures, drawn with Bokeh."""
