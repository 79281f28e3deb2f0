use super::*;

/// Traces a shell command in a directory of its own; what it stopped at, and how it ended.
fn trace(script: &str, failing: Option<usize>) -> (Vec<String>, ExitStatus) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(dir.path());
    command.stderr(std::process::Stdio::null());
    let mut tracee = Tracee::start(&mut command, &dir.path().to_string_lossy()).unwrap();
    let mut stops = Vec::new();
    loop {
        match tracee.next_stop().unwrap() {
            Stop::Ended(status) => return (stops, status),
            Stop::Call(side, call) => {
                if side == Side::Before && call.name == "fsync" && failing.is_some() {
                    tracee.fail_call().unwrap();
                }
                stops.push(format!("{side:?} {call}"));
            }
        }
    }
}

#[test]
fn a_command_stops_on_both_sides_of_a_sync_and_of_a_change_of_a_name() {
    let (stops, status) = trace(
        "mkdir d && echo x > d/f && sync d/f && mv d e && rm e/f",
        None,
    );
    assert!(status.success());
    let expected = [
        "Before mkdir d",
        "After mkdir d",
        "Before fsync d/f",
        "After fsync d/f",
        "Before renameat2 d -> e",
        "After renameat2 d -> e",
        "Before unlinkat e/f",
        "After unlinkat e/f",
    ];
    assert_eq!(stops, expected);
}

#[test]
fn a_call_that_is_failed_returns_an_error_to_the_command() {
    let (stops, status) = trace("echo x > f && sync f", Some(0));
    assert_eq!(stops.len(), 2);
    assert_eq!(status.code(), Some(1));
}

#[test]
fn the_end_by_a_signal_is_told() {
    let (stops, status) = trace("kill -9 $$", None);
    assert!(stops.is_empty());
    assert_eq!(status.signal(), Some(9));
}

#[test]
fn a_tracee_that_is_dropped_is_gone() {
    let mut command = Command::new("sleep");
    let tracee = Tracee::start(command.arg("60"), "/").unwrap();
    let pid = tracee.pid;
    drop(tracee);
    assert_eq!(nix::sys::signal::kill(pid, None), Err(Errno::ESRCH));
}
