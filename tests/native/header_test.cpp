// header_test.cpp - trit.h alone, as C++: linkage is C, no keyword is used as a name.
#include <trit/trit.h>

#include <cstdio>

int main()
{
    trit_model *model = nullptr;
    trit_error err = {};
    trit_status status = trit_model_open(&model, -1, nullptr, nullptr, 0, TRIT_ISA_AUTO, 1, &err);
    bool good = status == TRIT_ERR_ARGUMENT && model == nullptr && trit_version()[0] != '\0';
    std::printf("%d passed, %d failed\n", good ? 1 : 0, good ? 0 : 1);
    return good ? 0 : 1;
}
