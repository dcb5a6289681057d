//! Wake-ups.
use std::path::PathBuf;
/// x
pub struct Wake;
impl Wake {
    /// x
    pub fn start(_w: impl Fn() + Send + 'static, _f: impl Fn() + Send + 'static) -> Self {
        Self
    }
    /// x
    pub fn drain(&self) -> bool {
        false
    }
    /// x
    pub fn watch(&mut self, _w: &[(Vec<PathBuf>, Vec<PathBuf>)]) {}
}
