//! A collection that few have anything in: an empty one takes the room of a pointer.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::{Deref, DerefMut};

/// Nothing, until something is put in. Once it was there it stays, so that who has one entry again and again does not
/// visit the allocator as often.
#[derive(Debug)]
pub(super) struct Few<T>(Option<Box<T>>);

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<T: Default> Few<T> {
    /// All that was in it.
    pub(super) fn take(&mut self) -> T {
        self.0.take().map_or_else(T::default, |some| *some)
    }
}

/// Reading sees an empty one where there is none; only putting something in makes it.
macro_rules! few {
    ($collection:ty, $($generic:ident),+) => {
        impl<$($generic: 'static),+> Deref for Few<$collection> {
            type Target = $collection;

            fn deref(&self) -> &Self::Target {
                match &self.0 {
                    Some(some) => some,
                    None => const { &<$collection>::new() },
                }
            }
        }

        impl<$($generic: 'static),+> DerefMut for Few<$collection> {
            fn deref_mut(&mut self) -> &mut Self::Target {
                self.0.get_or_insert_default()
            }
        }
    };
}

few!(Vec<T>, T);
few!(BTreeSet<T>, T);
few!(BTreeMap<K, V>, K, V);
few!(VecDeque<T>, T);

// What takes out must not make one first: these are found before those of the collection.

impl<T: Ord> Few<BTreeSet<T>> {
    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, value: &Q) -> bool
    where
        T: Borrow<Q>,
    {
        self.0.as_mut().is_some_and(|some| some.remove(value))
    }

    pub(super) fn pop_first(&mut self) -> Option<T> {
        self.0.as_mut()?.pop_first()
    }
}

impl<K: Ord, V> Few<BTreeMap<K, V>> {
    pub(super) fn remove<Q: Ord + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.0.as_mut()?.remove(key)
    }

    pub(super) fn pop_first(&mut self) -> Option<(K, V)> {
        self.0.as_mut()?.pop_first()
    }
}

impl<T> Few<Vec<T>> {
    pub(super) fn pop(&mut self) -> Option<T> {
        self.0.as_mut()?.pop()
    }
}

impl<T> Few<VecDeque<T>> {
    pub(super) fn pop_front(&mut self) -> Option<T> {
        self.0.as_mut()?.pop_front()
    }
}
