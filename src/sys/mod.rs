//! The only module with `unsafe`: what neither the standard library nor rustix offers.
