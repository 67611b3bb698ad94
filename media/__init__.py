"""What the workers share: probing, decoding, encoding. It opens strangers' media, so only worker processes call it."""
