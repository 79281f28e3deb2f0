//! Every vCPU comes to a stop, on its own thread.
