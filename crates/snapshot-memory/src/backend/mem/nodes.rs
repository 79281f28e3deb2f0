//! A tree as a kernel asks for it: by the numbers of its files and directories, not by paths.

use std::io;

use super::MemBackend;
use super::disk::{Disk, Inode};
use super::file::{MemReadFile, MemWriteFile};
use super::op::Op;
use crate::backend::{Entry, EntryKind, Metadata, ReadFile, RelPath, WriteFile};

/// A tree in memory by the numbers of its nodes, which stay when names change.
///
/// It shares the tree with the backend that it comes from: what is changed here is counted, cut and
/// made to fail there.
#[derive(Clone, Debug)]
pub struct Nodes(MemBackend);

/// A file or a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its number.
    pub number: u64,
    /// What it is, and how large.
    pub metadata: Metadata,
    /// Whether it may not be written to.
    pub is_read_only: bool,
}

impl Nodes {
    /// The number of the directory that everything is in.
    pub const ROOT: u64 = super::disk::ROOT;

    pub(in crate::backend) fn new(tree: MemBackend) -> Self {
        Self(tree)
    }

    /// The node called `name` in a directory.
    pub fn find(&self, directory: u64, name: &str) -> io::Result<Node> {
        let disk = self.0.look()?;
        let found = disk.entries(directory)?.get(name).copied();
        let found = found.ok_or(io::ErrorKind::NotFound)?;
        Ok(node(&disk, found))
    }

    /// The node with this number.
    pub fn node(&self, number: u64) -> io::Result<Node> {
        Ok(node(&*self.0.look()?, number))
    }

    /// Where `name` in a directory is, whether it is there or not.
    pub fn path(&self, directory: u64, name: &str) -> io::Result<RelPath> {
        let disk = self.0.look()?;
        let mut open = vec![(RelPath::root(), Self::ROOT)];
        while let Some((path, number)) = open.pop() {
            if number == directory {
                return path
                    .join(name)
                    .map_err(|_| io::ErrorKind::InvalidInput.into());
            }
            for (name, inode) in disk.entries(number)? {
                if disk.kind(*inode) == EntryKind::Directory
                    && let Ok(below) = path.join(name)
                {
                    open.push((below, *inode));
                }
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }

    /// The names in a directory, each with the number of its node.
    pub fn list(&self, directory: u64) -> io::Result<Vec<(Entry, u64)>> {
        let disk = self.0.look()?;
        let entries = disk.entries(directory)?.iter();
        let entries = entries.map(|(name, inode)| {
            let kind = disk.kind(*inode);
            let name = name.clone();
            (Entry { name, kind }, *inode)
        });
        Ok(entries.collect())
    }

    /// Opens a file to read. It stays readable when its last name goes.
    pub fn read(&self, number: u64) -> io::Result<Box<dyn ReadFile>> {
        self.0.look()?.content(number)?;
        Ok(Box::new(MemReadFile::new(self.0.clone(), number)))
    }

    /// Opens a file that is there to write.
    pub fn write(&self, number: u64) -> io::Result<Box<dyn WriteFile>> {
        self.0.look()?.content(number)?;
        Ok(Box::new(MemWriteFile::new(self.0.clone(), number)))
    }

    /// Makes a file's bytes or a directory's names durable.
    pub fn sync(&self, number: u64) -> io::Result<()> {
        self.0.change(|_| Ok((Op::Sync { inode: number }, ())))
    }
}

fn node(disk: &Disk, number: Inode) -> Node {
    let content = disk.content(number).ok();
    Node {
        number,
        metadata: Metadata {
            kind: disk.kind(number),
            len_bytes: content.map_or(0, super::Content::len),
            allocated_bytes: content.map_or(0, super::Content::allocated_bytes),
        },
        is_read_only: disk.is_sealed(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::{Backend, FaultBackend};

    #[test]
    fn a_node_keeps_its_number_and_its_bytes_when_names_change() {
        let backend = FaultBackend::new(&MemBackend::new());
        let nodes = backend.nodes();
        let path = |text: &str| {
            let parts = text.split('/');
            parts.fold(RelPath::root(), |path, part| path.join(part).unwrap())
        };
        backend.create_dir(&path("a")).unwrap();
        backend.create(&path("a/file")).unwrap();
        let a = nodes.find(Nodes::ROOT, "a").unwrap();
        let file = nodes.find(a.number, "file").unwrap();
        nodes
            .write(file.number)
            .unwrap()
            .write_all_at(3, b"x")
            .unwrap();
        backend.rename_noreplace(&path("a"), &path("b")).unwrap();
        assert_eq!(nodes.path(a.number, "file").unwrap(), path("b/file"));
        assert_eq!(nodes.node(file.number).unwrap().metadata.len_bytes, 4);
        let open = nodes.read(file.number).unwrap();
        backend.remove_file(&path("b/file")).unwrap();
        let mut bytes = [9; 4];
        open.read_exact_at(0, &mut bytes).unwrap();
        assert_eq!(bytes, [0, 0, 0, b'x']);
        assert!(nodes.find(a.number, "file").is_err());
        assert!(nodes.list(a.number).unwrap().is_empty());
        // What is done here is counted there.
        let calls = backend.call_count();
        nodes.sync(a.number).unwrap();
        assert_eq!(backend.call_count(), calls + 1);
        backend.cut_at(calls + 2);
        nodes.sync(a.number).unwrap_err();
        nodes.node(a.number).unwrap_err();
    }
}
