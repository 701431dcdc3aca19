"""Tables become arrays and texts: the contract kept, statistics as of their time."""
