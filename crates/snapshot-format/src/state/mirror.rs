//! Copying between a runtime type and its frozen wire type, field by field, by name.

/// A value of the same meaning in another type.
pub(super) trait Mirror<T> {
    /// Copies `self` into the other type.
    fn mirror(&self) -> T;
}

/// A type that is its own mirror.
pub(super) trait Plain: Clone {}

impl Plain for bool {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}
impl Plain for u128 {}
impl Plain for i64 {}
impl Plain for String {}

impl<T: Plain> Mirror<T> for T {
    fn mirror(&self) -> T {
        self.clone()
    }
}

impl<T: Mirror<U>, U> Mirror<Vec<U>> for Vec<T> {
    fn mirror(&self) -> Vec<U> {
        self.iter().map(Mirror::mirror).collect()
    }
}

impl<T: Mirror<U>, U> Mirror<Option<U>> for Option<T> {
    fn mirror(&self) -> Option<U> {
        self.as_ref().map(Mirror::mirror)
    }
}

impl<T: Mirror<U>, U, const N: usize> Mirror<[U; N]> for [T; N] {
    fn mirror(&self) -> [U; N] {
        self.each_ref().map(Mirror::mirror)
    }
}

/// Declares wire structs and both conversions to the runtime struct of the same field names.
///
/// The order of the fields and their types are the format: a struct that is in use never changes.
macro_rules! wire {
    ($($(#[$doc:meta])* struct $name:ident for $runtime:ident { $($field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(crate::codec::Encode, crate::codec::Decode)]
        pub(super) struct $name { $($field: $type,)* }

        impl crate::state::mirror::Mirror<$name> for $runtime {
            fn mirror(&self) -> $name {
                $name { $($field: self.$field.mirror(),)* }
            }
        }

        impl crate::state::mirror::Mirror<$runtime> for $name {
            fn mirror(&self) -> $runtime {
                $runtime { $($field: self.$field.mirror(),)* }
            }
        }
    )*};
}

/// Declares a wire struct that a later version has replaced: it is only read, and what it lacks is
/// as in the runtime struct's default.
macro_rules! replaced_wire {
    ($(#[$doc:meta])* struct $name:ident for $runtime:ident { $($field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(crate::codec::Decode)]
        pub(super) struct $name { $($field: $type,)* }

        impl crate::state::mirror::Mirror<$runtime> for $name {
            fn mirror(&self) -> $runtime {
                $runtime { $($field: self.$field.mirror(),)* ..Default::default() }
            }
        }
    };
}

pub(super) use {replaced_wire, wire};
