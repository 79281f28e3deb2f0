use super::*;

#[test]
fn what_is_said_is_heard_however_it_is_cut() {
    let said = [
        Notice::lost(7, 16, "memory.img is damaged"),
        Notice::Finished,
    ];
    let mut bytes = Vec::new();
    for notice in &said {
        bytes.extend(serde_json::to_vec(notice).unwrap());
        bytes.push(b'\n');
    }
    for cut in 0..bytes.len() {
        let mut lines = Lines::default();
        let (first, last) = bytes.split_at(cut);
        let mut heard = lines.take::<Notice>(first);
        heard.extend(lines.take(last));
        assert_eq!(heard, said, "cut at {cut}");
    }
}

// spec: HDL-09
#[test]
fn lines_that_are_too_long_or_not_understood_are_passed_over() {
    let mut lines = Lines::default();
    assert_eq!(
        lines.take::<Notice>(b"\"paused\"\n\xff\xfe\n{\"lost\":3}\n"),
        []
    );
    for _ in 0..100 {
        assert_eq!(lines.take::<Notice>(&[b'x'; 1000]), []);
        assert!(lines.kept.len() <= MAX_LINE);
    }
    assert_eq!(
        lines.take::<Notice>(b"\n\"finished\"\n"),
        [Notice::Finished]
    );
}

#[test]
fn the_longest_cause_fits_a_line() {
    let worst = "\u{1}".repeat(10_000);
    let line = serde_json::to_vec(&Notice::lost(u64::MAX, u64::MAX, &worst)).unwrap();
    let mut lines = Lines::default();
    let heard = lines.take::<Notice>(&[line, b"\n".to_vec()].concat());
    assert_eq!(heard.len(), 1);
}

#[test]
fn a_vmm_says_goodbye() {
    let mut lines = Lines::default();
    assert_eq!(lines.take::<Word>(b"\"bye\"\n"), [Word::Bye]);
}
