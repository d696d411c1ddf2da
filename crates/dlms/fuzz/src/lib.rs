//! What the fuzz targets do with their input. The tests of `dlms` replay the corpora through this same code.

pub mod decode;
pub mod hdlc;
pub mod input;
pub mod memory;
