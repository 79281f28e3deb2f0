//! Runs every hostile input. The last line is `hostile inputs: N, accepted wrong: A, panics: P`.

use std::process::ExitCode;

use snapshot_checks::{hostile, switch_on};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let is_ready = match args.as_slice() {
        [] => Ok(()),
        ["--sabotage", name] => switch_on(name),
        _ => Err("usage: hostile [--sabotage NAME]".to_owned()),
    };
    if let Err(message) = is_ready {
        eprintln!("hostile: {message}");
        return ExitCode::from(2);
    }
    // Panics are counted, and each input that panics is named below.
    std::panic::set_hook(Box::new(|_| {}));
    let tally = match hostile::run() {
        Ok(tally) => tally,
        Err(error) => {
            eprintln!("hostile: {error}");
            return ExitCode::FAILURE;
        }
    };
    for example in tally.examples() {
        println!("{example}");
    }
    println!("{tally}");
    if tally.is_clean() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
