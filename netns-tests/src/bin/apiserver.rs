//! The API server of the tests, for those who want to see one from outside.
//!
//! ```text
//! apiserver ADDRESS:PORT [FILE.json...]
//! ```
//!
//! Each file holds one object, as `kubectl get -o json` shows it. It runs until it is stopped.
#![allow(clippy::print_stdout, reason = "what it is told to do is to talk")]

use std::process::ExitCode;

use weft_netns::apiserver::ApiServer;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let place = args.next().and_then(|place| place.parse().ok());
    let Some(place) = place else {
        eprintln!("usage: apiserver ADDRESS:PORT [FILE.json...]");
        return ExitCode::from(2);
    };
    let server = ApiServer::start(place, None);
    for file in args {
        let text = std::fs::read_to_string(&file).map_err(|e| e.to_string());
        match text.and_then(|text| serde_json::from_str(&text).map_err(|e| e.to_string())) {
            Ok(object) => server.put(object),
            Err(why) => {
                eprintln!("{file}: {why}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{}", server.url());
    loop {
        std::thread::park();
    }
}
