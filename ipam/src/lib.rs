mod choice;
mod range;
