//! The whole of it: a table is rotated while others write to it and the process is killed.
