"""What the studio and `fairlead serve` share as web servers: bodies, names of this machine, listening."""
