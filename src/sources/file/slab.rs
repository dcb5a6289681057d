//! The table in which files and logs stand, and the strings that they share.

use std::sync::Arc;

/// A vector whose indexes stay when others are removed.
#[derive(Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Option<T>>,
    free: Vec<usize>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(super) fn add(&mut self, item: T) -> usize {
        let Some(at) = self.free.pop() else {
            self.slots.push(Some(item));
            return self.slots.len() - 1;
        };
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = Some(item);
        }
        at
    }

    pub(super) fn get(&self, at: usize) -> Option<&T> {
        self.slots.get(at)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.slots.get_mut(at)?.as_mut()
    }

    pub(super) fn remove(&mut self, at: usize) -> Option<T> {
        let item = self.slots.get_mut(at)?.take();
        if item.is_some() {
            self.free.push(at);
        }
        item
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        self.slots.iter().enumerate().filter_map(|(at, slot)| Some((at, slot.as_ref()?)))
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn indexes(&self) -> std::ops::Range<usize> {
        0..self.slots.len()
    }
}

/// Strings that thousands of origins share.
#[derive(Debug, Default)]
pub(super) struct Interned(Vec<Arc<str>>);

impl Interned {
    pub(super) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(found) = self.0.iter().find(|known| &***known == text) {
            return Arc::clone(found);
        }
        let new: Arc<str> = Arc::from(text);
        self.0.push(Arc::clone(&new));
        new
    }
}
