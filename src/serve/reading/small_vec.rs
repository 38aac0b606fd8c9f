//! Lists that nearly always have one element, of which there is one for each item.

use std::ops::Deref;
use std::slice;

/// A list. A single element stands in it, and takes no memory of its own.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum SmallVec<T> {
    #[default]
    Empty,
    One(T),
    Several(Vec<T>),
}

impl<T> Deref for SmallVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::Empty => &[],
            Self::One(one) => slice::from_ref(one),
            Self::Several(several) => several,
        }
    }
}

impl<T> From<Option<T>> for SmallVec<T> {
    fn from(one: Option<T>) -> Self {
        one.map_or(Self::Empty, Self::One)
    }
}

impl<T> From<Vec<T>> for SmallVec<T> {
    fn from(several: Vec<T>) -> Self {
        Self::Several(several)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_slice_of_what_it_was_made_of() {
        for several in [vec![], vec![1], vec![1, 2]] {
            assert_eq!(*SmallVec::from(several.clone()), *several);
        }
        assert_eq!(*SmallVec::from(Some(1)), [1]);
        assert!(SmallVec::<u8>::from(None).is_empty() && SmallVec::<u8>::default().is_empty());
    }
}
