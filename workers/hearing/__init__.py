"""The parts of hearing; a folder, so that finding the workers imports none of them."""
