"""Results read back: tables, claims, figures and pages of runs, and the spectrum of a prompt."""
