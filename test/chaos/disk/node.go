package disk

import (
	"context"
	"os"
	"path/filepath"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// node is a file or a directory: a loopback's, with every change noted in the journal.
type node struct {
	*fs.LoopbackNode
	disk *Disk
}

// WrapChild implements fs.NodeWrapChilder.
func (n *node) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{ops.(*fs.LoopbackNode), n.disk}
}

// file is an open file.
type file struct {
	*fs.LoopbackFile
	fd   int
	disk *Disk
}

var (
	_ fs.NodeWrapChilder     = (*node)(nil)
	_ fs.NodeCreater         = (*node)(nil)
	_ fs.NodeOpener          = (*node)(nil)
	_ fs.NodeMkdirer         = (*node)(nil)
	_ fs.NodeUnlinker        = (*node)(nil)
	_ fs.NodeRmdirer         = (*node)(nil)
	_ fs.NodeRenamer         = (*node)(nil)
	_ fs.NodeLinker          = (*node)(nil)
	_ fs.NodeSetattrer       = (*node)(nil)
	_ fs.NodeFsyncer         = (*node)(nil)
	_ fs.NodeCopyFileRanger  = (*node)(nil)
	_ fs.FileWriter          = (*file)(nil)
	_ fs.FileAllocater       = (*file)(nil)
	_ fs.FilePassthroughFder = (*file)(nil)
)

func (n *node) path() string { return filepath.Join(n.RootData.Path, n.Path(n.Root())) }

// number is the inode below of a path.
func number(path string) uint64 {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return 0 // it is gone; nobody syncs it any more
	}
	return st.Ino
}

func statOf(fd uintptr) (number uint64, size int64, err error) {
	var st unix.Stat_t
	err = unix.Fstat(int(fd), &st)
	return st.Ino, st.Size, err
}

// errno turns the status of an operation of the loopback into an error and back.
func asError(e syscall.Errno) error {
	if e == 0 {
		return nil
	}
	return e
}

func nothing() error { return nil }

func (n *node) wrap(h fs.FileHandle) fs.FileHandle {
	loopback, ok := h.(*fs.LoopbackFile)
	if !ok {
		return h
	}
	fd, _ := loopback.PassthroughFd()
	return &file{loopback, fd, n.disk}
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	truncate := flags&syscall.O_TRUNC != 0
	h, fuseFlags, errno := n.LoopbackNode.Open(ctx, flags&^syscall.O_TRUNC)
	if errno != 0 {
		return nil, 0, errno
	}
	f := n.wrap(h)
	if open, ok := f.(*file); ok && truncate {
		if err := open.truncate(0); err != nil {
			_ = open.Release(ctx)
			return nil, 0, fs.ToErrno(err)
		}
	}
	return f, fuseFlags, 0
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (inode *fs.Inode, h fs.FileHandle, fuseFlags uint32, errno syscall.Errno) {
	path := filepath.Join(n.path(), name)
	if _, err := os.Lstat(path); err == nil {
		return nil, nil, 0, syscall.EEXIST // it came into being behind the kernel's back
	}
	err := n.disk.journal.rename(func() error {
		inode, h, fuseFlags, errno = n.LoopbackNode.Create(ctx, name, flags, mode, out)
		return asError(errno)
	}, func() error { return os.Remove(path) }, nothing, number(n.path()))
	if err != nil {
		return nil, nil, 0, fs.ToErrno(err)
	}
	return inode, n.wrap(h), fuseFlags, 0
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (inode *fs.Inode, errno syscall.Errno) {
	path := filepath.Join(n.path(), name)
	err := n.disk.journal.rename(func() error {
		inode, errno = n.LoopbackNode.Mkdir(ctx, name, mode, out)
		return asError(errno)
	}, func() error { return os.RemoveAll(path) }, nothing, number(n.path()))
	return inode, fs.ToErrno(err)
}

func (n *node) Link(ctx context.Context, target fs.InodeEmbedder, name string, out *fuse.EntryOut) (inode *fs.Inode, errno syscall.Errno) {
	other, ok := target.(*node)
	if !ok {
		return nil, syscall.EXDEV
	}
	path := filepath.Join(n.path(), name)
	err := n.disk.journal.rename(func() error {
		inode, errno = n.LoopbackNode.Link(ctx, other.LoopbackNode, name, out)
		return asError(errno)
	}, func() error { return os.Remove(path) }, nothing, number(n.path()))
	return inode, fs.ToErrno(err)
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	path := filepath.Join(n.path(), name)
	saved, err := n.disk.journal.save(path)
	if err != nil {
		return fs.ToErrno(err)
	}
	return fs.ToErrno(n.disk.journal.rename(func() error { return asError(n.LoopbackNode.Unlink(ctx, name)) },
		restoring(saved, path), discarding(saved), number(n.path())))
}

func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	path := filepath.Join(n.path(), name)
	return fs.ToErrno(n.disk.journal.removeDirectory(number(path), func() error { return asError(n.LoopbackNode.Rmdir(ctx, name)) },
		func() error { return os.Mkdir(path, 0o700) }, number(n.path())))
}

func (n *node) Rename(ctx context.Context, name string, newParent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	other, ok := newParent.(*node)
	if !ok || flags != 0 {
		return syscall.EINVAL
	}
	from, to := filepath.Join(n.path(), name), filepath.Join(other.path(), newName)
	saved, err := n.disk.journal.save(to)
	if err != nil {
		return fs.ToErrno(err)
	}
	restore := restoring(saved, to)
	return fs.ToErrno(n.disk.journal.rename(func() error { return asError(n.LoopbackNode.Rename(ctx, name, other.LoopbackNode, newName, 0)) },
		func() error {
			if err := os.Rename(to, from); err != nil {
				return err
			}
			return restore()
		}, discarding(saved), number(n.path()), number(other.path())))
}

func restoring(saved, path string) func() error {
	return func() error {
		if saved == "" {
			return nil
		}
		return os.Rename(saved, path)
	}
}

func discarding(saved string) func() error {
	return func() error {
		if saved == "" {
			return nil
		}
		return os.Remove(saved)
	}
}

// Setattr changes sizes by way of the journal; the rest of what it may change does not matter here.
func (n *node) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	size, ok := in.GetSize()
	if ok {
		in.Valid &^= fuse.FATTR_SIZE
		open, has := h.(*file)
		if !has {
			opened, _, errno := n.Open(ctx, syscall.O_RDWR)
			if errno != 0 {
				return errno
			}
			open = opened.(*file)
			defer open.Release(ctx)
		}
		if err := open.truncate(int64(size)); err != nil {
			return fs.ToErrno(err)
		}
	}
	return n.LoopbackNode.Setattr(ctx, nil, in, out)
}

func (f *file) truncate(size int64) error {
	_, before, err := statOf(uintptr(f.fd))
	if err != nil {
		return err
	}
	return f.disk.journal.change(uintptr(f.fd), size, max(0, before-size), func() error { return unix.Ftruncate(f.fd, size) })
}

// Write implements fs.FileWriter.
func (f *file) Write(ctx context.Context, data []byte, offset int64) (written uint32, errno syscall.Errno) {
	err := f.disk.journal.change(uintptr(f.fd), offset, int64(len(data)), func() error {
		written, errno = f.LoopbackFile.Write(ctx, data, offset)
		return asError(errno)
	})
	return written, fs.ToErrno(err)
}

// Allocate implements fs.FileAllocater. It reserves space, which may change the size and no content.
func (f *file) Allocate(ctx context.Context, offset, size uint64, mode uint32) syscall.Errno {
	if mode&^unix.FALLOC_FL_KEEP_SIZE != 0 {
		return syscall.EOPNOTSUPP
	}
	return fs.ToErrno(f.disk.journal.change(uintptr(f.fd), int64(offset), 0, func() error {
		return asError(f.LoopbackFile.Allocate(ctx, offset, size, mode))
	}))
}

// PassthroughFd implements fs.FilePassthroughFder: the kernel is not to write past the journal.
func (*file) PassthroughFd() (int, bool) { return 0, false }

// CopyFileRange implements fs.NodeCopyFileRanger: there is none, so that the kernel reads and writes.
func (*node) CopyFileRange(context.Context, fs.FileHandle, uint64, *fs.Inode, fs.FileHandle, uint64, uint64, uint64) (uint32, syscall.Errno) {
	return 0, syscall.ENOSYS
}

// directory is an open directory: a loopback's, but for fsync.
type directory struct {
	fs.FileReaddirenter
	fs.FileSeekdirer
	fs.FileReleasedirer
	node *node
}

// OpendirHandle implements fs.NodeOpendirHandler.
func (n *node) OpendirHandle(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	h, fuseFlags, errno := n.LoopbackNode.OpendirHandle(ctx, flags)
	if errno != 0 {
		return nil, 0, errno
	}
	return &directory{h.(fs.FileReaddirenter), h.(fs.FileSeekdirer), h.(fs.FileReleasedirer), n}, fuseFlags, 0
}

// Fsyncdir implements fs.FileFsyncdirer.
func (d *directory) Fsyncdir(ctx context.Context, flags uint32) syscall.Errno {
	return d.node.Fsync(ctx, d, flags)
}

// Fsync implements fs.NodeFsyncer, for files and directories.
func (n *node) Fsync(ctx context.Context, h fs.FileHandle, flags uint32) syscall.Errno {
	open, ok := h.(*file)
	if !ok {
		if err := n.disk.wait(); err != nil {
			return fs.ToErrno(err)
		}
		return fs.ToErrno(n.disk.journal.syncedDirectory(number(n.path())))
	}
	inode, _, err := statOf(uintptr(open.fd))
	if err != nil {
		return fs.ToErrno(err)
	}
	covered := n.disk.journal.begun(inode)
	err = n.disk.wait()
	if err == nil {
		err = asError(open.LoopbackFile.Fsync(ctx, flags))
	}
	n.disk.journal.synced(inode, covered, err == nil)
	return fs.ToErrno(err)
}
