// Requests of Triton's protocol, read many at a time into columns.
//
// The requests of one client are alike but for their id, their place in a sequence and their numbers. What is
// left of a request without these is its *form*. Python parses the first request of each form, finds out what it
// asks for, and lets the form be learned. Whatever is not plain is left to Python: it never guesses.

#include <string>
#include <unordered_map>

#include "proto.h"

namespace native {

namespace {

constexpr int64_t kUnknown = -1;
constexpr size_t kMostForms = 1024;
constexpr size_t kLongestForm = 4096;  // of requests whose inputs lie elsewhere than in raw_input_contents

// Fields of ModelInferRequest, of an entry of its parameters, and of InferParameter.
enum : uint32_t { kId = 3, kParameters = 4, kRawInputContents = 7, kKey = 1, kValue = 2, kBool = 1, kInt64 = 2 };

enum Flag : int64_t { kStart = 1, kEnd = 2 };

}  // namespace

// As Python reads it: int64[7]. Places are of the bytes that were read from.
struct InferRow {
  int64_t form = kUnknown;
  int64_t sequence = 0;  // as the bits of a uint64; 0 where none is named
  int64_t flags = 0;
  int64_t id_at = 0, id_end = 0;
  int64_t row_at = 0, row_end = 0;
};
static_assert(sizeof(InferRow) == 7 * sizeof(int64_t));

class InferReader {
 public:
  // The number of a request's form, from now on; kUnknown if it is not plain. Where there are too many forms, all
  // older ones are forgotten, and their numbers do not come again.
  int64_t learn(std::string_view request) {
    InferRow row;
    if (!read(request, request.data(), row)) return kUnknown;
    auto found = forms_.find(form_);
    if (found != forms_.end()) return found->second;
    if (forms_.size() >= kMostForms) forms_.clear();
    forms_.emplace(form_, next_);
    return next_++;
  }

  InferRow row(std::string_view request, const char* base) {
    InferRow row;
    if (!read(request, base, row)) return InferRow{};
    auto found = forms_.find(form_);
    row.form = found == forms_.end() ? kUnknown : found->second;
    return row;
  }

 private:
  // What a request has, and its form into `form_`. False if it is not plain.
  bool read(std::string_view request, const char* base, InferRow& row) {
    form_.clear();
    bool has_id = false, has_row = false;
    seen_ = 0;
    Message fields(request);
    for (Field field; fields.next(field);) {
      if (field.number == kId && field.type == WireType::kBytes) {
        if (has_id || !is_ascii(field.bytes)) return false;
        has_id = true;
        row.id_at = field.bytes.data() - base;
        row.id_end = row.id_at + static_cast<int64_t>(field.bytes.size());
      } else if (field.number == kRawInputContents && field.type == WireType::kBytes) {
        if (has_row) return false;
        has_row = true;
        row.row_at = field.bytes.data() - base;
        row.row_end = row.row_at + static_cast<int64_t>(field.bytes.size());
      } else if (field.number == kParameters && field.type == WireType::kBytes) {
        if (!parameter(field, row)) return false;
      } else {
        form_.append(field.whole);
      }
      if (form_.size() > kLongestForm) return false;
    }
    return !fields.broken && has_row;
  }

  // One parameter: of the sequence, or else a part of the form. False if it is not plain.
  bool parameter(const Field& entry, InferRow& row) {
    Message parts(entry.bytes);
    Field key, value;
    if (!parts.next(key) || key.number != kKey || key.type != WireType::kBytes) return false;
    if (!parts.next(value) || value.number != kValue || value.type != WireType::kBytes || !parts.at_end()) return false;
    unsigned which = key.bytes == "sequence_id" ? 1 : key.bytes == "sequence_start" ? 2 : key.bytes == "sequence_end" ? 4 : 0;
    if (!which) {
      form_.append(entry.whole);
      return true;
    }
    if (seen_ & which) return false;
    seen_ |= which;
    Message choice(value.bytes);
    Field chosen;
    if (!choice.next(chosen) || !choice.at_end() || chosen.type != WireType::kVarint) return false;
    if (which == 1) {
      row.sequence = static_cast<int64_t>(chosen.value);
      return chosen.number == kInt64;
    }
    if (chosen.value) row.flags |= which == 2 ? kStart : kEnd;
    return chosen.number == kBool;
  }

  static bool is_ascii(std::string_view text) {
    for (char c : text)
      if (static_cast<uint8_t>(c) >= 0x80) return false;
    return true;
  }

  std::unordered_map<std::string, int64_t> forms_;
  int64_t next_ = 0;
  std::string form_;
  unsigned seen_ = 0;  // parameters of the sequence that the request has named
};

}  // namespace native

#define EXPORTED __attribute__((visibility("default")))

extern "C" {

EXPORTED void* infer_make() { return new native::InferReader; }
EXPORTED void infer_free(native::InferReader* reader) { delete reader; }

EXPORTED int64_t infer_learn(native::InferReader* reader, const char* request, int64_t size) {
  return reader->learn({request, static_cast<size_t>(size)});
}

// Reads requests that begin and end at these places of `bytes`.
EXPORTED void infer_read(native::InferReader* reader, const char* bytes, const int64_t* begins, const int64_t* ends,
                         int64_t count, native::InferRow* rows) {
  for (int64_t i = 0; i < count; ++i)
    rows[i] = reader->row({bytes + begins[i], static_cast<size_t>(ends[i] - begins[i])}, bytes);
}

}  // extern "C"
