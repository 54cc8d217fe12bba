//! Keys for strategies that seal what they send. Where they come from is not this crate's business.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::watch;

/// 32 secret bytes that the nodes of one mesh share, for discovery and for nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

/// Reads the keys of a file of secrets; the error is a sentence.
type Read = dyn Fn(&Path) -> Result<Vec<Key>, String> + Send + Sync;

/// Where strategies get keys: the mesh's own, or those of a file that the operator names.
#[derive(Clone)]
pub struct Keys {
    mesh: Option<watch::Receiver<Vec<Key>>>,
    read: Arc<Read>,
}

impl Key {
    /// The key that is these bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

impl Keys {
    /// `mesh` holds the keys that all nodes of the mesh share and changes when they do: the first seals, all open. None
    /// where the nodes share no secret. `read` reads those of a file.
    pub fn new(
        mesh: Option<watch::Receiver<Vec<Key>>>,
        read: impl Fn(&Path) -> Result<Vec<Key>, String> + Send + Sync + 'static,
    ) -> Self {
        Self { mesh, read: Arc::new(read) }
    }

    /// Keys that never change, and no files.
    #[must_use]
    pub fn fixed(keys: Vec<Key>) -> Self {
        let (_, mesh) = watch::channel(keys);
        Self::new(Some(mesh), |path| Err(format!("`{}` is not read here", path.display())))
    }

    /// Those of the mesh, where its nodes share a secret.
    #[must_use]
    pub fn of_mesh(&self) -> Option<watch::Receiver<Vec<Key>>> {
        self.mesh.clone()
    }

    /// Those of a file.
    ///
    /// # Errors
    /// A sentence on why there are none.
    pub fn of_file(&self, path: &Path) -> Result<Vec<Key>, String> {
        (self.read)(path)
    }
}

impl Default for Keys {
    fn default() -> Self {
        Self::fixed(Vec::new())
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("mesh", &self.mesh.is_some()).finish_non_exhaustive()
    }
}
