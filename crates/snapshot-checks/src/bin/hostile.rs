//! Runs every hostile input. The last line is `hostile inputs: N, accepted wrong: A, panics: P`.

use std::process::ExitCode;

use snapshot_checks::hostile;
use snapshot_format::sabotage::Sabotage;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let is_ready = match args.as_slice() {
        [] => Ok(()),
        ["--sabotage", name] => enable(name),
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

#[cfg(feature = "sabotage")]
fn enable(name: &str) -> Result<(), String> {
    let known = Sabotage::ALL
        .into_iter()
        .find(|sabotage| sabotage.name() == name);
    known.ok_or_else(|| format!("no defect {name:?}"))?.enable();
    Ok(())
}

#[cfg(not(feature = "sabotage"))]
fn enable(name: &str) -> Result<(), String> {
    let known = Sabotage::ALL
        .into_iter()
        .any(|sabotage| sabotage.name() == name);
    Err(if known {
        format!("{name} needs a build with the feature `sabotage`")
    } else {
        format!("no defect {name:?}")
    })
}
