mod addressing;
mod conf;
