//! Clients that do not do what they should: the kit finds out.
