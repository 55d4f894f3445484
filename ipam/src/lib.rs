mod choice;
mod conf;
mod error;
mod range;
