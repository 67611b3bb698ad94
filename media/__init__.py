"""What the workers share: files, probing, decoding. Opens strangers' media, so only worker processes call into it.

`files` is the exception: it decides about paths, never opens one, and the doors use it too.
"""
