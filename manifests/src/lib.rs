//! The image, made of a directory and of nothing else: no registry, no daemon, no base. The same
//! directory makes the same bytes.

mod archive;
mod image;
mod reference;

pub use image::{Architecture, write};
pub use reference::Reference;
