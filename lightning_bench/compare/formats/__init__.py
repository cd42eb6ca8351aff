"""Verdicts to text, Markdown, JUnit and annotations."""
