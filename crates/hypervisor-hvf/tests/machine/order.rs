//! What is called in which order.
