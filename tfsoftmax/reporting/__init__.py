"""Reports: pages that show what a run learned, how sure it is and where it fails."""
