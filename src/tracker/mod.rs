//! Acknowledgements in, spans out: how far everything is stored, per origin.
