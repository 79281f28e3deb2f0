//! What errors mean to a caller.

use super::*;

fn io_kind(error: io::Error) -> ErrorKind {
    let path = RelPath::root();
    StoreError::io("write", &path, error).kind()
}

#[test]
fn errors_of_the_system_keep_what_a_caller_can_act_on() {
    assert_eq!(
        io_kind(io::ErrorKind::StorageFull.into()),
        ErrorKind::NoSpace
    );
    assert_eq!(
        io_kind(io::ErrorKind::QuotaExceeded.into()),
        ErrorKind::NoSpace
    );
    assert_eq!(
        io_kind(io::ErrorKind::UnexpectedEof.into()),
        ErrorKind::Corrupt
    );
    assert_eq!(
        io_kind(backend::Refusal::SymbolicLink.into()),
        ErrorKind::Corrupt
    );
    assert_eq!(
        io_kind(io::ErrorKind::PermissionDenied.into()),
        ErrorKind::Failed
    );
}

#[test]
fn an_error_survives_the_way_through_a_sink() {
    let busy = || StoreError::Busy {
        path: RelPath::root(),
        holders: vec![7, 9],
        waited_ms: 5,
    };
    let back = StoreError::from(SinkError::from(busy()));
    assert_eq!(back.kind(), ErrorKind::Busy);
    assert_eq!(back.to_string(), busy().to_string());
    assert!(back.to_string().ends_with("held by processes 7, 9"));
    let published = PublishError::NotCommitted {
        id: SnapshotId([1; 16]),
        source: Box::new(busy().into()),
    };
    assert_eq!(StoreError::from(published).kind(), ErrorKind::Busy);
}
