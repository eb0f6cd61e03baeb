"""The digits as a TFDS data set. TFDS wants its builder to sit in a package."""
