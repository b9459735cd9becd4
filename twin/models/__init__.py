"""The families of models, one final class each: how it begins, learns, is judged, and what it means."""
