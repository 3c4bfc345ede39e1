"""Images of any size: what to run (plan), the runs, the scores and pictures they give."""
