"""One engine on one layout under load: asked as a row of a table, answered by simulation."""
