"""How well gtcrec recommends: beside its peers, without its parts, on new items, without content, on planted truth."""
