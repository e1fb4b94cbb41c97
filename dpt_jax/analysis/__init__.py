"""Reading results back: learning curves and their plots."""
