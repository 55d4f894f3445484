mod boot;
mod choice;
mod conf;
mod directory;
mod error;
mod index;
mod lock;
mod mortal;
mod owner;
mod range;
#[cfg(test)]
mod testing;
