"""Speech from text: the codecs between sound and codes, and the model that writes codes. Needs torch to be imported."""
