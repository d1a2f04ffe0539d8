"""What gtcrec costs in seconds and bytes: training, evaluation, search, encoding, building."""
