// Records: what the transport's thread and the interpreter tell each other, many in one buffer.
//
// A record is a head and `size` bytes. Native byte order, no padding between records.

#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstring>
#include <mutex>
#include <string>
#include <string_view>
#include <sys/eventfd.h>
#include <unistd.h>
#include <vector>

namespace native {

// Told to the interpreter.
enum class Event : uint32_t {
  kCall = 1,     // A call has begun. extra: microseconds until its deadline, or -1. Bytes: `Fields`.
  kMessage = 2,  // Bytes: one message.
  kEnd = 3,      // The client has half-closed: no message follows.
  kGone = 4,     // The client has reset the call, or the connection is lost. The call is forgotten.
  kSent = 5,     // All that was to be sent before kNotify is with the transport.
  kTooLarge = 6, // A message beyond the limit; it is not read. extra: its size.
  kNoCodec = 7,  // A message is compressed, and no compression was agreed on.
};

// Told by the interpreter.
enum class Command : uint32_t {
  kRead = 1,    // So many more messages (extra) may be told.
  kSend = 2,    // Bytes: one message.
  kNotify = 3,  // Answer with kSent once nothing waits any more.
  kFinish = 4,  // Ends the call. Bytes: `Fields` of the trailers. The call is forgotten.
};

struct Head {
  uint32_t kind;
  uint32_t size;
  uint64_t call;
  int64_t extra;
};
static_assert(sizeof(Head) == 24);

using Buffer = std::vector<uint8_t>;

constexpr size_t kKept = 1 << 20;  // bytes of room that an empty buffer keeps

// Empties a buffer. What one long message took is given back.
inline void drop(Buffer& buffer) {
  if (buffer.capacity() > kKept) Buffer().swap(buffer);
  else buffer.clear();
}

inline void append(Buffer& to, const void* data, size_t size) {
  const auto* bytes = static_cast<const uint8_t*>(data);
  to.insert(to.end(), bytes, bytes + size);
}

// Strings one after the other, each behind its length.
class Fields {
 public:
  void add(std::string_view text) {
    auto size = static_cast<uint32_t>(text.size());
    append(bytes_, &size, sizeof size);
    append(bytes_, text.data(), text.size());
  }
  const Buffer& bytes() const { return bytes_; }

 private:
  Buffer bytes_;
};

// Reads what `Fields` has made. False at the end, or where the bytes are cut short.
inline bool next_field(const uint8_t*& at, const uint8_t* end, std::string_view& text) {
  uint32_t size;
  if (end - at < static_cast<ptrdiff_t>(sizeof size)) return false;
  std::memcpy(&size, at, sizeof size);
  at += sizeof size;
  if (static_cast<size_t>(end - at) < size) return false;
  text = {reinterpret_cast<const char*>(at), size};
  at += size;
  return true;
}

// A buffer of records that one thread fills and another takes. The descriptor is readable while there are any.
class Mailbox {
 public:
  Mailbox() : descriptor_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {}
  ~Mailbox() { close(descriptor_); }
  Mailbox(const Mailbox&) = delete;
  Mailbox& operator=(const Mailbox&) = delete;

  int descriptor() const { return descriptor_; }

  void put(const Buffer& records) {
    if (records.empty()) return;
    bool first;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      first = waiting_.empty();
      append(waiting_, records.data(), records.size());
    }
    if (first) wake();
  }

  // What has come since the last time, into `taken`, whose contents are dropped.
  void take(Buffer& taken) {
    drop(taken);
    uint64_t count;
    (void)!read(descriptor_, &count, sizeof count);
    std::lock_guard<std::mutex> lock(mutex_);
    waiting_.swap(taken);
    was_taken_.notify_all();
  }

  // Waits until no more than `most` bytes wait, or for so long. False: there are still more.
  bool wait_below(size_t most, std::chrono::milliseconds how_long) {
    std::unique_lock<std::mutex> lock(mutex_);
    return was_taken_.wait_for(lock, how_long, [&] { return waiting_.size() <= most; });
  }

  void wake() {
    uint64_t one = 1;
    (void)!write(descriptor_, &one, sizeof one);
  }

 private:
  int descriptor_;
  std::mutex mutex_;
  std::condition_variable was_taken_;
  Buffer waiting_;
};

}  // namespace native
