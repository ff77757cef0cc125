"""Interactive charts, by Bokeh."""
