"""What the workers share: probing, decoding, encoding. Opens strangers' media, so only worker processes call into it."""
