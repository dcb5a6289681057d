//! `state.db`: what this machine remembers between runs. A cache of what the store knows, but for
//! reaches and stamps; with the null store it is all there is.
